// Package envoy holds what mcpgw brings to Envoy that is not Go: the version it was measured on and the
// Lua script that runs in the response path.
package envoy

import (
	_ "embed"
	"strings"
)

//go:embed VERSION
var version string

//go:embed outcome.lua
var outcome string

// Version is the Envoy release that mcpgw renders its configuration for, such as "1.40.0". An older
// Envoy is refused: it would drop or misread settings that keep the gateway closed.
func Version() string { return strings.TrimSpace(version) }

// Outcome is the response filter: it turns what is not MCP into a JSON-RPC error (the guard) and records
// how each call ended in the metadata namespace "mcpgw_resp" (the reader).
func Outcome() string { return outcome }
