// Package fault is the gateway's one error type: why an exchange was not served.
//
// Inside the gateway plain errors travel; where a step of the walk decides that the caller must hear about it, the error becomes
// a *Error with a Kind from a closed set. The Kind fixes the HTTP status and the JSON-RPC code (see table), the Message is public,
// the Cause is not: it goes to the log and the span, never to a client. Reply is the one place that renders a fault for the wire.
package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// Kind says what went wrong, from the caller's point of view. A Kind is itself an error, so errors.Is(err, fault.Denied) works.
type Kind uint8

// The kinds, in the order in which the walk can find them. Codes from -32020 to -32099 are the specification's
// (2026-07-28, "Error codes"); 4xx codes are application codes, outside the range that JSON-RPC reserves.
const (
	Internal        Kind = iota // a fault of ours, or of policy: 503
	Overload                    // too much work in flight: 503
	NotFound                    // no endpoint at this path: 404
	Query                       // a query on an endpoint: 400
	Method                      // not POST, GET or DELETE: 405
	Forbidden                   // foreign Origin or Host: 403
	Unauthenticated             // no credential, or a bad one: 401
	TwoCredentials              // more than one credential: 400
	MediaType                   // content type or encoding: 415
	NotAcceptable               // Accept without both types: 406
	TooLarge                    // body above the limit: 413
	Timeout                     // upload too slow: 408
	Parse                       // not JSON: 400
	Invalid                     // JSON, but not an acceptable message: 400
	HeaderMismatch              // header and body disagree: 400
	Version                     // unsupported protocol version: 400
	Capability                  // the client lacks a capability: 400
	BadMeta                     // _meta missing or incomplete: 400
	NoMethod                    // unknown or removed method: 404 modern, 200 legacy
	NeedSession                 // a legacy call without a session: 400
	NoSession                   // unknown, expired or foreign session: 404
	Unknown                     // item unknown or hidden, bad cursor: 200
	BadArguments                // arguments that do not fit the item: 200
	Denied                      // refused by policy, item visible: 200
	Limited                     // over a limit: 429
	Upstream                    // the server did not answer as an MCP server: 200
)

// row is how a kind looks on the wire; legacy 0 means the same status in both eras.
type row struct {
	name           string
	status, legacy int
	code           int
}

var table = [...]row{
	Internal:        {"internal", 503, 0, -32603},
	Overload:        {"overload", 503, 0, -32603},
	NotFound:        {"not_found", 404, 0, 404},
	Query:           {"query", 400, 0, 400},
	Method:          {"method", 405, 0, 405},
	Forbidden:       {"forbidden", 403, 0, 403},
	Unauthenticated: {"unauthenticated", 401, 0, 401},
	TwoCredentials:  {"two_credentials", 400, 0, 400},
	MediaType:       {"media_type", 415, 0, -32600},
	NotAcceptable:   {"not_acceptable", 406, 0, -32600},
	TooLarge:        {"too_large", 413, 0, -32600},
	Timeout:         {"timeout", 408, 0, -32600},
	Parse:           {"parse", 400, 0, -32700},
	Invalid:         {"invalid", 400, 0, -32600},
	HeaderMismatch:  {"header_mismatch", 400, 0, -32020},
	Version:         {"version", 400, 0, -32022},
	Capability:      {"capability", 400, 0, -32021},
	BadMeta:         {"bad_meta", 400, 0, -32602},
	NoMethod:        {"no_method", 404, 200, -32601},
	NeedSession:     {"need_session", 400, 0, -32600},
	NoSession:       {"no_session", 404, 0, -32001},
	Unknown:         {"unknown", 200, 0, -32602},
	BadArguments:    {"bad_arguments", 200, 0, -32602},
	Denied:          {"denied", 200, 0, 403},
	Limited:         {"limited", 429, 0, 429},
	Upstream:        {"upstream", 200, 0, -32603},
}

func (k Kind) row() row {
	if int(k) < len(table) {
		return table[k]
	}
	return table[Internal]
}

// String is the kind's name in logs, metrics and spans.
func (k Kind) String() string { return k.row().name }

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string { return k.String() }

// Code is the JSON-RPC error code.
func (k Kind) Code() int { return k.row().code }

// Status is the HTTP status, for a caller of the modern or of a legacy era.
func (k Kind) Status(legacy bool) int {
	if r := k.row(); legacy && r.legacy != 0 {
		return r.legacy
	}
	return k.row().status
}

// Error is a fault that a caller is told. It is immutable once built.
type Error struct {
	Kind    Kind
	Message string            // public
	Data    json.RawMessage   // public; the error's data member, nil for none
	Header  map[string]string // HTTP headers that go with it: WWW-Authenticate, Allow, Retry-After
	Cause   error             // for the log and the span alone
}

// New makes a fault with a public message.
func New(k Kind, format string, args ...any) *Error {
	if len(args) == 0 {
		return &Error{Kind: k, Message: format}
	}
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns a copy of e that remembers a cause.
func (e *Error) Wrap(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

// With returns a copy of e that carries data, a JSON text.
func (e *Error) With(data json.RawMessage) *Error {
	c := *e
	c.Data = data
	return &c
}

// Error is what the log shows: kind, public message, cause.
func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Kind.String() + ": " + e.Message
	}
	return e.Kind.String() + ": " + e.Message + ": " + e.Cause.Error()
}

// Unwrap gives errors.Is and errors.As the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is matches a Kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// From is e as a fault. An error that is none becomes an Internal one whose message says nothing.
func From(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return New(Internal, "the gateway could not serve this request").Wrap(err)
}

// Reply is the JSON-RPC error for the wire. id is JSON text as the caller sent it; nil stands for null.
func (e *Error) Reply(id []byte) []byte {
	if len(id) == 0 {
		id = []byte("null")
	}
	msg, err := json.Marshal(e.Message)
	if err != nil { // cannot happen: a string always has a JSON form
		msg = []byte(`""`)
	}
	b := make([]byte, 0, len(id)+len(msg)+len(e.Data)+80)
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, id...)
	b = append(b, `,"error":{"code":`...)
	b = strconv.AppendInt(b, int64(e.Kind.Code()), 10)
	b = append(b, `,"message":`...)
	b = append(b, msg...)
	if len(e.Data) > 0 {
		b = append(b, `,"data":`...)
		b = append(b, e.Data...)
	}
	return append(b, "}}"...)
}

// WithAllow is the fault for an HTTP method that an endpoint does not serve.
func WithAllow(allow string) *Error {
	return &Error{Kind: Method, Message: "use " + allow, Header: map[string]string{http.CanonicalHeaderKey("allow"): allow}}
}
