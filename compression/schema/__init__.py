"""The schema that engine, service and client share: recipe, job, events, report, errors. Torch-free."""
