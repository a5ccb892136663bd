"""The whole way on a small real model: a task that tunesmith writes itself, and the model that learns it."""
