package harness

import (
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"

	"github.com/mcpgw/mcpgw/test/eraproxy"
)

// StartEverything starts the go-sdk's everything-server and returns its URL. Stateless it speaks
// 2026-07-28 (and earlier revisions without sessions), otherwise 2025-11-25 and earlier with sessions.
func StartEverything(t testing.TB, stateless bool) string {
	t.Helper()
	p := Start(t, Command{
		Name: "everything-server stateless=" + strconv.FormatBool(stateless),
		Path: Tools(t).EverythingServer,
		Args: []string{"-http=127.0.0.1:0", "-stateless=" + strconv.FormatBool(stateless)},
	})
	return "http://" + p.Listening(t) + "/"
}

// StartEraProxy joins a stateless and a stateful server to one that speaks both eras; see package eraproxy.
func StartEraProxy(t testing.TB, stateless, stateful string) string {
	t.Helper()
	newer, err := url.Parse(stateless)
	if err != nil {
		t.Fatalf("URL of the stateless server: %v", err)
	}
	older, err := url.Parse(stateful)
	if err != nil {
		t.Fatalf("URL of the stateful server: %v", err)
	}
	server := httptest.NewServer(eraproxy.New(newer, older))
	t.Cleanup(func() {
		server.CloseClientConnections() // an event stream would keep Close waiting
		server.Close()
	})
	return server.URL + "/"
}

// StartDualEra starts both everything-servers and the proxy that makes one of them.
func StartDualEra(t testing.TB) string {
	t.Helper()
	return StartEraProxy(t, StartEverything(t, true), StartEverything(t, false))
}

// StartServerEverything starts the reference server of the TypeScript SDK v1 (2025-11-25, sessions,
// event streams) and returns the URL of its MCP endpoint.
func StartServerEverything(t testing.TB) string {
	t.Helper()
	p := StartNode(t, []string{"PORT=0"}, Tools(t).ServerEverything, "streamableHttp")
	return "http://" + p.Listening(t) + "/mcp"
}

// StartNode runs a script with the installed Node. Scripts outside .tools/ find the installed packages
// by import through $NODE_MODULES, since Node resolves ES modules from where the script lies.
func StartNode(t testing.TB, env []string, script string, args ...string) *Process {
	t.Helper()
	tools := Tools(t)
	return Start(t, Command{
		Name: "node " + script,
		Path: tools.Node,
		Args: append([]string{script}, args...),
		Env:  append([]string{"NODE_MODULES=" + tools.NodeModules}, env...),
	})
}
