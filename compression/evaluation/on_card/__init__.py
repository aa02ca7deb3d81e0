"""Times a job's models on the GPU that it trained on, in each runtime that is installed there, in a process of its own."""
