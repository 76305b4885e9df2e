// Package identity turns a credential into a principal: API keys by the digest of the key, JSON Web Tokens (RFC 7519) by the
// keys of their issuer, and nobody into the anonymous principal where that is allowed. What it returns was verified; nothing a
// client merely claims ends up in a Principal. Secret, NamesCredential and HoldsCredential keep credentials from being shown.
package identity
