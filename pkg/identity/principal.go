package identity

import (
	"strconv"
	"time"
)

// The values of Principal.Type.
const (
	User      = "user"      // a person, or a program that acts for one
	Service   = "service"   // a program on its own account
	Anonymous = "anonymous" // nobody proved anything; only on endpoints that allow it
)

// Principal is who calls, as far as a verified credential or the configuration says. It is immutable once made and shared
// between exchanges, so no holder may change its slices.
type Principal struct {
	Type   string // User, Service or Anonymous
	ID     string // the subject: a token's "sub" (or the configured claim), or the API key's configured name
	Issuer string // a token's "iss"; KeyIssuer for API keys; empty for the anonymous
	Client string // the OAuth client that acts for the subject; empty when the credential names none
	Tenant string

	Roles  []string
	Scopes []string

	Claims []byte // the token's verified claims, a JSON object; nil for API keys and the anonymous

	digest  [32]byte  // of the API key
	expires time.Time // of the token
}

// KeyIssuer stands in Principal.Issuer for callers with an API key. No JWT issuer can be configured with this name.
const KeyIssuer = "mcpgw:key"

// Key names the principal for everything that belongs to one: sessions, quotas, parked exchanges. It is stable across
// processes and injective over (issuer, subject, client): each part carries its length, so no choice of names can make two
// principals one. A key holds no secret, but it holds names: it belongs into maps, not into metrics. The anonymous share one
// key that no other principal can have. A nil principal has the empty key.
func (p *Principal) Key() string {
	switch {
	case p == nil:
		return ""
	case p.Type == Anonymous:
		return Anonymous
	}
	b := make([]byte, 0, len(p.Issuer)+len(p.ID)+len(p.Client)+12)
	for _, s := range [...]string{p.Issuer, p.ID, p.Client} {
		b = strconv.AppendInt(b, int64(len(s)), 10)
		b = append(b, ':')
		b = append(b, s...)
	}
	return string(b)
}
