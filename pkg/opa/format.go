package opa

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// Format lays out a Rego v1 file as OPA does. Comments stay, and so does the meaning: what was formatted must read as the same rules,
// or it is an error. The error is [Faults] if the file cannot be read.
func Format(f File) ([]byte, error) {
	before, err := parseV1(f.Name, f.Text)
	if err != nil {
		faults := faultsOf(err, f.Name)
		if len(faults) == 1 && faults[0].Message == emptyModule {
			return f.Text, nil
		}
		return nil, faults
	}
	text, err := format.SourceWithOpts(f.Name, f.Text, format.Opts{RegoVersion: ast.RegoV1})
	if err != nil {
		return nil, faultsOf(err, f.Name)
	}
	after, err := parseV1(f.Name, text)
	if err != nil || !after.Equal(before) || len(after.Comments) != len(before.Comments) {
		return nil, Faults{{File: f.Name, Message: "formatting would change what the file says, so it stays as it is"}}
	}
	return text, nil
}

func parseV1(name string, text []byte) (*ast.Module, error) {
	return ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1})
}
