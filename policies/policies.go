// Package policies embeds the Rego that the gateway ships: the main module that combines a policy's rules into one ruling
// (mcpgw/main.rego), a library that policies may import (mcpgw/lib), what only tests may import (test), the JSON schema of the
// question that all are checked against (input.schema.json), and the policy that a new one starts from (starter). The Rego tests
// lie beside what they test.
package policies

import (
	"embed"
	"io/fs"
)

// Files holds mcpgw/main.rego, mcpgw/lib/*.rego and their tests, and test/*.rego, which calls a function that mcpgw policy test alone has.
//
//go:embed mcpgw test
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
