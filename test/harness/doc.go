// Package harness gives tests real peers and a plain way to talk to them: the programs that
// `make tools` installs, child processes that never outlive a test, a dual-era MCP server, an MCP
// server that records whatever reaches it and misbehaves on demand, and a client that sends exactly
// the bytes a test wants sent.
//
// Nothing here sleeps for a fixed time and hopes. A server is ready when it listens, a fact is awaited
// with a deadline, and ports are chosen by the kernel (port 0) and asked for afterwards. Nothing here
// imports the gateway's own rooms either: a test that reads answers with the code under test would not
// see that code's faults.
//
// All helpers take the test that uses them, end it with Fatal when they cannot do their work, and tidy
// up in its Cleanup. They may be called from the test's own goroutine only, unless they say otherwise.
package harness
