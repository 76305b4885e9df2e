package jsonrpc

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrorKind says which of the two JSON-RPC errors a refused text is answered with.
type ErrorKind uint8

// The kinds of refusal.
const (
	Malformed ErrorKind = iota + 1 // not JSON: -32700, "Parse error"
	Invalid                        // JSON, but no message that may be acted on: -32600, "Invalid Request"
)

// An Error is the refusal of a text by [Read] or [Parse].
type Error struct {
	// ID is the id's JSON text, so that the refusal can carry it. It is nil unless the whole text is well-formed JSON with exactly one id of a legal type.
	ID   []byte
	Kind ErrorKind
	// Msg is public: it says what is wrong and where, and of the text itself holds at most one member name, cut to 64 bytes.
	Msg string
}

func (e *Error) Error() string { return e.Msg }

func invalid(format string, args ...any) *Error {
	return &Error{Kind: Invalid, Msg: fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) *Error {
	return &Error{Kind: Malformed, Msg: fmt.Sprintf(format, args...)}
}

// fault words an error of the decoder. The decoder's own words are not used: they quote the text.
func fault(err error, offset int64) *Error {
	var s *jsontext.SyntacticError
	if errors.As(err, &s) {
		offset = s.ByteOffset
	}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return invalid("duplicate key %q at byte %d", short(s.JSONPointer.LastToken()), offset)
	case errors.Is(err, io.EOF) && offset == 0:
		return malformed("the text is empty")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("not valid JSON: the text ends too early, at byte %d", offset)
	}
	return malformed("not valid JSON at byte %d", offset)
}

// maxShown is how many bytes of a member name an error message may repeat.
const maxShown = 64

// short cuts a member name for a message, never inside a character.
func short(name string) string {
	if len(name) <= maxShown {
		return name
	}
	n := maxShown
	for n > 0 && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n]
}
