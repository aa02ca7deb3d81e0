"""The HTTP interface: routes, their schemas and documents, paging, streams, and the protocol beneath them."""
