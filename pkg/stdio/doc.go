// Package stdio makes a local process that speaks MCP over its standard streams look like a streamable HTTP server on a unix socket, so
// that Envoy routes to it as to any other.
//
// # Child
//
// A [Server] runs its command as a supervised child: in a process group of its own that ends with it, with an environment that holds
// only allowed variables, stderr line by line in the log within bounds, restarted with jittered exponential backoff (100 ms to 30 s,
// forgotten after a healthy minute). It ends as the specification asks: stdin closed, after 2 s SIGTERM, after 2 s more SIGKILL, the
// signals to the whole group. When the gateway itself is killed, Linux kills the child. A descendant that leaves the group (setsid)
// escapes both; a sandbox command in front of the server catches it. Without Options.User a child runs as the gateway's user and can
// read what that user can.
//
// # Era
//
// A child is asked server/discover first; one that answers as a legacy server does, or not at all, gets initialize (see negotiate). The
// socket then serves the era that was found: 2026-07-28 without sessions, or 2025-11-25 with Mcp-Session-Id.
//
// # Sharing
//
// A modern child serves everybody, whatever Options.Share says: its requests stand for themselves, and a process a session would need
// sessions. A legacy child with ShareAll knows one client, us, with empty capabilities; session ids are handles over it, initialize is
// answered from its recorded result, ping and logging/setLevel by us; what it asks is refused, its list changes go to every GET stream,
// and what else it tells goes to the log, since nothing on the wire says which caller it concerns. Resource subscriptions and tasks are
// not offered. With ShareSession each session has a child of its own, initialized with the client's own words, and everything is
// relayed; the session ends with its child.
//
// # Messages
//
// Request ids and progress tokens are replaced by numbers of our own on the way in and restored byte by byte on the way out. Nothing
// else changes, except that line breaks between JSON tokens become spaces, which the framing needs. Log notifications of a shared child
// carry nothing that ties them to a request, so no client gets them.
//
// # Bounds
//
// A message to the child has at most 4 MiB, one from it 16 MiB; a longer line ends the child. Per child 256 calls are open at most and
// 64 MiB of answers wait for slow callers; per server 64 MiB of requests wait to be written. What exceeds a bound, and what finds no
// running child for 2 s, is refused with HTTP 503 and -32603 before the child sees it. A call that was given to a child gets HTTP 200
// and -32603 when the child ends or is silent for 5 minutes; a modern call is also cancelled when its caller leaves.
//
// State of a link is guarded by its mutex, of a server by its own; the order is server, session, link. Each child has a reader, a writer,
// a stderr reader, a waiter and an owner, all of which end with it.
package stdio
