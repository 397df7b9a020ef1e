"""The portal: pages rendered on the server over the same services that the API calls."""
