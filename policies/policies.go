// Package policies embeds the Rego that the gateway ships: the main module that combines a policy's rules into one ruling
// (mcpgw/main.rego), a library that policies may import (mcpgw/lib), the JSON schema of the question that both are checked against
// (input.schema.json), and the policy that a new one starts from (starter). The Rego tests lie beside what they test.
package policies

import (
	"embed"
	"io/fs"
)

// Files holds mcpgw/main.rego, mcpgw/lib/*.rego and their tests.
//
//go:embed mcpgw
var Files embed.FS

// InputSchema is the JSON schema (draft 2020-12) of input.
//
//go:embed input.schema.json
var InputSchema []byte

//go:embed starter
var starter embed.FS

// Starter holds the files of a first policy: rules, their tests, and the data that they read.
func Starter() fs.FS {
	dir, err := fs.Sub(starter, "starter")
	if err != nil {
		panic(err) // the name is a constant
	}
	return dir
}
