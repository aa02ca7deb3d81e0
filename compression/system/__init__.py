"""The machine below the engine: processes, files, memory, progress, interrupts."""
