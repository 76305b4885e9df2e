package jsonrpc

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// An Edit replaces Len bytes at Pos with Text.
type Edit struct {
	Pos, Len int
	Text     []byte
}

// Splice returns a copy of body with the edits made and every other byte as it was. Edits are sorted by Pos and do not overlap; others, and edits
// outside the body, are a programming error and panic.
func Splice(body []byte, edits ...Edit) []byte {
	size := len(body)
	for _, e := range edits {
		size += len(e.Text) - e.Len
	}
	out, done := make([]byte, 0, max(size, 0)), 0
	for _, e := range edits {
		if e.Len < 0 || e.Pos < done || e.Len > len(body)-e.Pos {
			panic(fmt.Sprintf("jsonrpc: edit of %d bytes at %d is out of order or outside the %d bytes", e.Len, e.Pos, len(body)))
		}
		out = append(append(out, body[done:e.Pos]...), e.Text...)
		done = e.Pos + e.Len
	}
	return append(out, body[done:]...)
}

// AppendString appends s as a JSON string literal. Bytes that are no UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // the error only tells of replaced bytes
	return dst
}

// Result returns a response with the given JSON texts. An empty id is written as null, an empty result as {}.
func Result(id, result []byte) []byte {
	return AppendResult(make([]byte, 0, len(start)+len("null")+len(id)+len(`,"result":{}}`)+len(result)), id, result)
}

// AppendResult appends what Result returns.
func AppendResult(dst, id, result []byte) []byte {
	if len(result) == 0 {
		result = []byte("{}")
	}
	dst = append(append(appendHead(dst, id), `,"result":`...), result...)
	return append(dst, '}')
}

// Failure returns an error response. An empty id is written as null; empty data is left out; id and data are JSON texts, message is plain text.
func Failure(id []byte, code int, message string, data []byte) []byte {
	b := head(id, len(`,"error":{"code":-32600,"message":"","data":}}`)+len(message)+len(data))
	b = append(b, `,"error":{"code":`...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(b, `,"message":`...)
	b = AppendString(b, message)
	if len(data) > 0 {
		b = append(append(b, `,"data":`...), data...)
	}
	return append(b, "}}"...)
}

// start begins every response.
const start = `{"jsonrpc":"2.0","id":`

// head starts a response, with room for more bytes after the id.
func head(id []byte, more int) []byte {
	return appendHead(make([]byte, 0, len(start)+len("null")+len(id)+more), id)
}

func appendHead(dst, id []byte) []byte {
	if len(id) == 0 {
		id = []byte("null")
	}
	return append(append(dst, start...), id...)
}
