"""What runs beside the API: workers for jobs and checks, and the keeper. Never imports torch; the engine is a child."""
