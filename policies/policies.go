// Package policies embeds the Rego that the gateway ships: the main module that combines a policy's rules into one ruling
// (mcpgw/main.rego), a library that policies may import (mcpgw/lib), and the JSON schema of the question that both are checked
// against (input.schema.json). The Rego tests lie beside what they test.
package policies

import "embed"

// Files holds mcpgw/main.rego, mcpgw/lib/*.rego and their tests.
//
//go:embed mcpgw
var Files embed.FS

// InputSchema is the JSON schema (draft 2020-12) of input.
//
//go:embed input.schema.json
var InputSchema []byte
