"""HTTP: routes, authentication, shapes. Every rule lives in the services below."""
