"""HTTP and sockets: routes, connections, rooms, access, and the page."""
