package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// APIKey is a key that the configuration knows, by the digest of its text alone.
type APIKey struct {
	// ID becomes the principal's ID. Several keys may share one, as the old and the new key do while a key is changed.
	ID     string
	Digest [32]byte // DigestOf the key's text
	// Principal says what its bearer may be: Type (Service when empty), Client, Tenant, Roles, Scopes. The rest of it is set by New.
	Principal Principal
}

// keyPrefix marks a text as one of our keys, for those who search repositories and logs for leaked ones.
const keyPrefix = "mcpgw_"

// NewKey makes an API key: its text, to be shown once, and the digest for the configuration. The key has 260 random bits, so a
// plain digest of it cannot be searched and needs no slow hash.
func NewKey() (text, digest string) {
	text = keyPrefix + rand.Text() + rand.Text()
	d := DigestOf(text)
	return text, hex.EncodeToString(d[:])
}

// DigestOf is the SHA-256 digest of a key's text.
func DigestOf(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// ParseDigest reads a digest as NewKey writes it: 64 hexadecimal digits.
func ParseDigest(s string) ([32]byte, error) {
	var d [32]byte
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(d) {
		return d, errors.New("want a SHA-256 digest of 64 hexadecimal digits")
	}
	copy(d[:], b)
	return d, nil
}
