package identity

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a token, key or other credential in memory. However it is printed, formatted, logged or encoded it reads
// "[redacted]", also as a field of something else; Reveal is the one way to its text. The zero value is an empty secret.
type Secret struct{ text *string } // a pointer, since fmt prints the unexported fields of what contains us without asking us

const redacted = "[redacted]"

// NewSecret hides text.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal is the hidden text. Every call of it is a place where a credential may leak.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty says whether there is any text.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// Format implements fmt.Formatter, for all verbs.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
