// Package upstream is one MCP server as the gateway talks to it: which eras it speaks, what it offers, its sessions, and
// how a message of one era becomes one of the other.
//
// A [Client] reads a server once ([Client.Fetch]); a [Watcher] keeps what it read fresh in the background, so that no client
// ever waits for a server's list. A [Session] is the legacy era's state towards a server; the broker holds its own.
//
// A server is not trusted to behave: answers, streams, pages and items are bounded, and whatever goes wrong becomes an [Error]
// with a reason from a closed set, which is all that clients and reports ever see of it.
package upstream
