// Package e2e proves what a client of the gateway sees. Every test runs `mcpgw run` with the real Envoy in front of real MCP servers and
// looks at it from the two ends alone: what the client receives, and what the servers' own records say they received.
//
// A file is one gateway and one table; a subtest is one row of the contract, in each protocol revision where the row applies. When a
// gateway ends, Envoy's own counters of what must never happen are read: a message of ours that it did not expect, a header change it
// refused, a configuration it rejected, a call that nobody judged.
package e2e
