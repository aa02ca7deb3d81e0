"""The processes beside the API: workers and the keeper. None of them imports torch; the engine is a child process."""
