package catalog

import (
	"fmt"
	"sync"

	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Kind says which of the four sorts of thing an item is.
type Kind uint8

// The kinds of item, in the order in which reports and digests name them.
const (
	Tool Kind = iota
	Resource
	Template
	Prompt
)

// Kinds lists every kind, in order.
var Kinds = [...]Kind{Tool, Resource, Template, Prompt}

// String is the word that policies and reports use: tool, resource, template, prompt.
func (k Kind) String() string {
	switch k {
	case Tool:
		return "tool"
	case Resource:
		return "resource"
	case Template:
		return "template"
	case Prompt:
		return "prompt"
	}
	return "unknown"
}

// MarshalText lets a kind be a JSON string and a JSON object key.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *Kind) UnmarshalText(text []byte) error {
	for _, known := range Kinds {
		if string(text) == known.String() {
			*k = known
			return nil
		}
	}
	return fmt.Errorf("%q is no kind of item", text)
}

// Item is one tool, resource, resource template or prompt as one server defines it.
// It is immutable and may be shared by any number of goroutines, views and snapshots.
type Item struct {
	Server      string // the configured name of the server
	Kind        Kind
	Name        string            // the origin's own name: a tool's or prompt's name, a resource's URI, a template's uriTemplate
	Title       string            // what the server calls it, or empty
	Definition  []byte            // the JSON object, byte for byte as the server sent it
	Annotations []byte            // the annotations that count: a JSON object, or nil
	Claimed     []byte            // what the server says of itself: {"annotations":…,"description":…,"title":…}, absent members left out
	Tags        []string          // the operator's tags, in order
	Digest      string            // SHA-256 of Definition, hex
	Drift       string            // how it differs from the lock file: "" (not at all, or there is none), New, Changed; Build sets it
	Findings    []string          // what looks wrong in its own words, of the closed set Findings; in order
	Headers     []mcp.ParamHeader // arguments of a tool that modern requests mirror in headers
	InputSchema []byte            // a tool's inputSchema, a part of Definition; nil for other kinds

	pin      *pin // shared by all values of one definition; nil for an item that NewItem has not made
	once     sync.Once
	prepared any
}

// ID names the item for policies and reports: server/name, the origin's words.
func (i *Item) ID() string { return i.Server + "/" + i.Name }

// Prepared returns what build made of this item the first time it was called; later calls return the
// same value and do not call build. It is safe for concurrent use. There is one slot an item and the
// policy engine owns it: it keeps there the terms it would otherwise make for every question.
func (i *Item) Prepared(build func() any) any {
	i.once.Do(func() { i.prepared = build() })
	return i.prepared
}
