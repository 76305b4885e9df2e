// Package jsonrpc reads one JSON-RPC 2.0 message strictly, once, and changes it by splicing bytes.
//
// A gateway that judges a message and lets another program act on it must be sure that both read the same thing. So [Read] refuses whatever two JSON
// parsers may understand differently: a key given twice (at any depth, also when one is written with escapes), text that is no Unicode, a number that
// cannot be held, an envelope key that is "almost" a known one, a message that is request and response at once. What it accepts it indexes without
// building a tree: the envelope, params, params._meta, params.ref and params.arguments, one level each, as slices of the caller's bytes. Nothing is ever encoded
// again: ids, numbers, unknown members and the order of members stay as they came, and a change is a [Splice].
//
// Grammar: RFC 8259 in the profile of RFC 7493 (I-JSON), read with jsontext; message shapes: https://www.jsonrpc.org/specification and the MCP schema
// (no null id, no batch). All functions are safe for concurrent use.
package jsonrpc

import (
	"bytes"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// Kind says which of the three JSON-RPC messages a [Message] is.
type Kind uint8

// The messages of JSON-RPC.
const (
	Request      Kind = iota + 1 // method and id
	Notification                 // method without id
	Response                     // result or error
)

// String returns the kind in lower case, as logs want it.
func (k Kind) String() string {
	switch k {
	case Request:
		return "request"
	case Notification:
		return "notification"
	case Response:
		return "response"
	}
	return "unknown"
}

// A Value is one JSON value as it stands in the text it was read from. The zero value means that the value is absent.
type Value struct {
	Raw []byte // the JSON text without surrounding white space; aliases the text that was read
	Pos int    // offset of Raw in that text
}

// Exists reports whether the value was present. A JSON null exists.
func (v Value) Exists() bool { return len(v.Raw) > 0 }

// Kind returns the JSON type by its first byte (jsontext has the constants), or [jsontext.KindInvalid] if the value is absent.
func (v Value) Kind() jsontext.Kind { return jsontext.Value(v.Raw).Kind() }

// Str returns the decoded text of a JSON string; ok is false if the value is absent or of another type.
func (v Value) Str() (s string, ok bool) {
	if v.Kind() != jsontext.KindString {
		return "", false
	}
	if bytes.IndexByte(v.Raw, '\\') < 0 {
		return string(v.Raw[1 : len(v.Raw)-1]), true
	}
	b, err := jsontext.AppendUnquote(nil, v.Raw)
	return string(b), err == nil
}

// A Member is one name (decoded) and its value.
type Member struct {
	Name  string
	Value Value
}

// An Object is a JSON object with its members indexed one level deep. The zero value means that the object is absent.
type Object struct {
	Value
	Members []Member // in the order of the text; names are unique
}

// Get returns the value of the named member, or the zero Value. It searches linearly.
func (o Object) Get(name string) Value {
	for i := range o.Members {
		if o.Members[i].Name == name {
			return o.Members[i].Value
		}
	}
	return Value{}
}

// A Message is one JSON-RPC message whose bytes were read strictly. It aliases Body and is valid as long as Body is not changed.
type Message struct {
	Kind        Kind
	ID          []byte // JSON text of the id, byte for byte; nil for a notification, and for an error response whose id is null
	Method      string // decoded; empty for a response
	MethodValue Value
	Params      Object
	Meta        Object // params._meta
	Ref         Object // params.ref: what completion/complete is about
	Arguments   Object // params.arguments
	Result      Value  // of a response
	Error       Value  // of a response; a JSON object
	Body        []byte // the whole text
}

// Clone is a message of its own: its body is a copy, and all values stand in that copy.
func (m *Message) Clone() *Message {
	c := *m
	c.Body = bytes.Clone(m.Body)
	// Every value is a part of Body, so its place tells where it is in the copy.
	move := func(v *Value) {
		if v.Exists() {
			v.Raw = c.Body[v.Pos : v.Pos+len(v.Raw) : v.Pos+len(v.Raw)]
		}
	}
	for _, v := range []*Value{&c.MethodValue, &c.Result, &c.Error} {
		move(v)
	}
	for _, o := range []*Object{&c.Params, &c.Meta, &c.Ref, &c.Arguments} {
		move(&o.Value)
		o.Members = slices.Clone(o.Members)
		for i := range o.Members {
			move(&o.Members[i].Value)
		}
	}
	c.ID = bytes.Clone(m.ID)
	return &c
}
