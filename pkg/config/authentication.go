package config

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/identity"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// algorithms are signatures by a private key that only the issuer has.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (c *checker) authentication(public string) {
	a := c.config.Authentication
	open := true
	for _, l := range c.config.Listeners {
		open = open && l.Anonymous != nil
	}
	if len(a.ApiKeys) == 0 && len(a.Jwt) == 0 && !open && !c.index.isBroken("listeners") {
		c.fault("authentication", "is missing, so nobody could call", "add `api_keys` (`mcpgw key new` makes one) or `jwt`; or, for a listener on this machine, `anonymous: {}`")
	}
	digests := map[string]string{}
	for i, k := range a.ApiKeys {
		path := fmt.Sprintf("authentication.api_keys[%d].digest", i)
		if first, ok := digests[k.Digest]; ok && k.Digest != "" {
			line, _ := c.index.at(first)
			c.fault(path, fmt.Sprintf("is the digest on line %d, too", line), "make another key by `mcpgw key new`")
		}
		digests[k.Digest] = path
		if name := quickstartKey(k.Digest); name != "" && public != "" {
			c.fault(path, fmt.Sprintf("is the quick start's key %s, which everyone knows, and others can reach the listener %s", name, public), "make a key by `mcpgw key new`, or bind the listener to 127.0.0.1")
		}
	}
	issuers := map[string]string{}
	for i, j := range a.Jwt {
		path := fmt.Sprintf("authentication.jwt[%d]", i)
		c.unique(issuers, path+".issuer", j.Issuer)
		if strings.HasPrefix(j.Issuer, "mcpgw:") {
			c.fault(path+".issuer", shorten(j.Issuer)+" is a name of the gateway's own", "write what the tokens' `iss` says")
		}
		for n, name := range j.Algorithms {
			if !slices.Contains(algorithms, name) {
				c.fault(fmt.Sprintf("%s.algorithms[%d]", path, n), shorten(name)+" is not a signature that is believed", "write one of "+strings.Join(algorithms, ", "))
			}
		}
		switch source := j.Jwks.(type) {
		case *configv1.JWTIssuer_JwksFile:
			c.readable(path+".jwks_file", &source.JwksFile)
		case *configv1.JWTIssuer_JwksUrl:
			u, err := url.Parse(source.JwksUrl)
			if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || !validPort(u) ||
				(u.Scheme != "https" && (u.Scheme != "http" || !localHost(u.Hostname()))) {
				c.fault(path+".jwks_url", "is not an https URL", "write https://HOST/PATH; http is taken on a loopback host only")
			}
		}
		for _, claim := range []struct{ name, path string }{
			{"subject", j.Claims.Subject}, {"roles", j.Claims.Roles}, {"tenant", j.Claims.Tenant}, {"client", j.Claims.Client}, {"scopes", j.Claims.Scopes},
		} {
			if !validClaim(claim.path) {
				c.fault(path+".claims."+claim.name, shorten(claim.path)+" is not a claim's path", "write names joined by dots, or a JSON pointer: /NAME/NAME with ~0 for ~ and ~1 for / in a name")
			}
		}
	}
}

// validClaim takes names joined by dots, or a JSON pointer (RFC 6901, section 3).
func validClaim(path string) bool {
	if strings.HasPrefix(path, "/") {
		return !strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(path), "~")
	}
	return path == "" || !slices.Contains(strings.Split(path, "."), "")
}

// quickstartKey names the key of the quick start whose digest this is.
func quickstartKey(digest string) string {
	for _, key := range []string{"quickstart-reader", "quickstart-writer", "quickstart-operator"} {
		if digest == KeyDigest(key) {
			return key
		}
	}
	return ""
}

// KeyDigest is what stands in the configuration for an API key.
func KeyDigest(key string) string {
	sum := identity.DigestOf(key)
	return "sha256:" + hex.EncodeToString(sum[:])
}
