"""Jobs without training, of decoders that memory does not hold: from file to file, a few rows or a layer at a time.

`job` is the way in. What such a job writes is what any job ships, as far as it can be had without the model in memory.
"""
