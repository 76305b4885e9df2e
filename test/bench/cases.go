package main

import (
	"fmt"
	"slices"
	"strings"
)

// subject is a running thing that is measured: plain Envoy, or a gateway with some of its parts.
type subject struct {
	name                      string
	gateway                   bool
	guard, accessLog, tracing bool
}

var (
	plain   = subject{name: "plain"}
	shipped = subject{name: "shipped", gateway: true, guard: true, accessLog: true, tracing: true}
	bare    = subject{name: "bare", gateway: true}
	guarded = subject{name: "guard", gateway: true, guard: true}
	logged  = subject{name: "accesslog", gateway: true, accessLog: true}
	traced  = subject{name: "tracing", gateway: true, tracing: true}
)

// scenario is one row's kind of call, and to whom.
type scenario struct {
	name    string
	of      subject
	path    string // the endpoint
	method  string
	tool    string // for tools/call
	legacy  bool
	tools   int  // that a list must show
	changes bool // an argument that policy reads is another in every call
	sizes   bool // measured with every payload; else with the smallest alone
}

func (s scenario) era() string {
	if s.legacy {
		return "legacy"
	}
	return "modern"
}

const (
	list = "tools/list"
	call = "tools/call"
)

// scenarios is everything that can be measured. The first eight are what others rely on.
var scenarios = []scenario{
	{name: "plain", of: plain, path: pathModern, method: call, tool: toolEcho, sizes: true},
	{name: "direct-bare", of: bare, path: "/mcp/echo", method: call, tool: toolEcho, sizes: true},
	{name: "broker-bare", of: bare, path: "/mcp/old", method: call, tool: toolEcho, legacy: true, sizes: true},
	{name: "direct", of: shipped, path: "/mcp/echo", method: call, tool: toolEcho, sizes: true},
	{name: "broker", of: shipped, path: "/mcp/old", method: call, tool: toolEcho, legacy: true, sizes: true},
	{name: "direct-uncached", of: shipped, path: "/mcp/echo", method: call, tool: toolLookup, changes: true},
	{name: "list-20", of: shipped, path: "/mcp/twenty", method: list, tools: 20},
	{name: "list-1000", of: shipped, path: "/mcp/thousand", method: list, tools: 1000},

	{name: "direct-renamed", of: shipped, path: "/mcp/both", method: call, tool: "echo_" + toolEcho, sizes: true}, // the body is edited
	{name: "direct+guard", of: guarded, path: "/mcp/echo", method: call, tool: toolEcho},
	{name: "direct+accesslog", of: logged, path: "/mcp/echo", method: call, tool: toolEcho},
	{name: "direct+tracing", of: traced, path: "/mcp/echo", method: call, tool: toolEcho},
}

// choose finds the scenarios of these names; none means all.
func choose(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var out []scenario
	for _, n := range names {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == n })
		if i < 0 {
			var known []string
			for _, s := range scenarios {
				known = append(known, s.name)
			}
			return nil, fmt.Errorf("no case %q; there are %s", n, strings.Join(known, ", "))
		}
		out = append(out, scenarios[i])
	}
	return out, nil
}

// cell is one row under way.
type cell struct {
	scenario
	connections, payload int
	job                  job

	requests, errors int
	fault            string
	latencies        []uint32
	rate             []float64
	envoy, mcpgw     []float64 // CPU µs a call, by block
}

// cells is the matrix of a run.
func cells(chosen []scenario, o options) []*cell {
	var out []*cell
	for _, n := range o.connections {
		for i, size := range o.payloads {
			for _, s := range chosen {
				if i == 0 || s.sizes {
					out = append(out, &cell{scenario: s, connections: n, payload: size})
				}
			}
		}
	}
	return out
}
