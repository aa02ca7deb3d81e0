"""The three stages, one file each: quantize, prune, distill. A stage changes the state and yields events; maths lives beside."""
