"""Admission: checks of a request that need its model and texts, and its worker class."""
