"""The endpoints, by subject and one module each: its `router` is served and stands in OpenAPI."""
