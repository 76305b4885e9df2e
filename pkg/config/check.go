package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gobwas/glob"
	"go.yaml.in/yaml/v3"

	"github.com/mcpgw/mcpgw/pkg/identity"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// checker gathers what is wrong with one configuration.
type checker struct {
	file   string // as given, for the reports
	dir    string // where relative paths begin
	root   *yaml.Node
	index  *index
	config *configv1.Config

	faults, warnings Faults
	files            map[string]bool
}

// fault reports path, unless what stands there could not be read at all.
func (c *checker) fault(path, message, remedy string) {
	if !c.index.isBroken(path) {
		line, column := c.index.at(path)
		c.add(position{line, column}, path, message, remedy)
	}
}

func (c *checker) warn(path, message, remedy string) {
	line, column := c.index.at(path)
	c.warnings = append(c.warnings, Fault{Line: line, Column: column, Path: path, Message: message, Remedy: remedy})
}

func (c *checker) report() (faults, warnings Faults) {
	for _, list := range []Faults{c.faults, c.warnings} {
		for i := range list {
			list[i].File = c.file
		}
	}
	return c.faults.tidy(), c.warnings.tidy()
}

func (c *checker) watched() []string { return slices.Sorted(maps.Keys(c.files)) }

// check goes through the configuration in the order of the proto.
func (c *checker) check() {
	taken := map[string]string{} // addresses, by the path that took them
	local := c.listeners(taken)
	servers := c.servers()
	c.endpoints(servers)
	c.policy()
	c.authentication(local)
	c.telemetry()
	c.admin(taken)
	c.limits()
	c.envoy(taken)
}

// listeners returns the name of the first listener that is not local, if any.
func (c *checker) listeners(taken map[string]string) (public string) {
	names := map[string]string{}
	for i, l := range c.config.Listeners {
		path := fmt.Sprintf("listeners[%d]", i)
		if l.Name == "" {
			c.fault(path+".name", "is missing", "with several listeners each needs a name, such as `name: public`")
		}
		c.unique(names, path+".name", l.Name)
		local := c.address(taken, path+".address", &l.Address)
		if !local && public == "" {
			public = l.Name
		}
		if l.Tls != nil {
			c.keyPair(path+".tls", &l.Tls.CertFile, &l.Tls.KeyFile)
		}
		if l.PublicUrl != "" {
			c.origin(path+".public_url", l.PublicUrl, false)
		}
		for j, host := range l.AllowedHosts {
			if h, _, err := net.SplitHostPort(host); err == nil && h != "" {
				c.fault(fmt.Sprintf("%s.allowed_hosts[%d]", path, j), shorten(host)+" has a port", "write the host alone: "+h)
			} else if host != strings.ToLower(host) || strings.ContainsAny(host, "/ *") || host == "" {
				c.fault(fmt.Sprintf("%s.allowed_hosts[%d]", path, j), shorten(host)+" is not a host", "write a name or an IP address in lower case, without scheme, path or pattern")
			}
		}
		for j, origin := range l.AllowedOrigins {
			c.origin(fmt.Sprintf("%s.allowed_origins[%d]", path, j), origin, true)
		}
		switch {
		case l.Anonymous == nil:
		case !local:
			c.fault(path+".anonymous", "is on a listener that others can reach ("+l.Address+")", "bind the listener to 127.0.0.1 or a unix socket, or leave `anonymous` out")
		default:
			c.warn(path+".anonymous", fmt.Sprintf("everyone on this machine calls without a credential, with the roles [%s]", strings.Join(l.Anonymous.Roles, ", ")), "leave `anonymous` out to require one")
		}
	}
	return public
}

// unique reports a name that an earlier path has taken.
func (c *checker) unique(names map[string]string, path, name string) {
	if name == "" {
		return
	}
	if first, ok := names[name]; ok {
		line, _ := c.index.at(first)
		c.fault(path, fmt.Sprintf("%s is the name on line %d, too", shorten(name), line), "choose another")
		return
	}
	names[name] = path
}

// address brings *value into the form of ParseAddress and says whether only
// this machine can reach it. What cannot be read counts as local: it has its
// own fault.
func (c *checker) address(taken map[string]string, path string, value *string) (local bool) {
	if *value == "" {
		return true
	}
	a, err := ParseAddress(*value)
	if err == nil {
		a, err = a.in(c.dir)
	}
	if err != nil {
		remedy := "write IP:PORT such as 127.0.0.1:8080, localhost:PORT or unix:PATH"
		if strings.HasPrefix(*value, ":") {
			remedy = "write 127.0.0.1" + *value + " for this machine alone, or 0.0.0.0" + *value + " for every interface"
		}
		c.fault(path, shorten(*value)+": "+err.Error(), remedy)
		return true
	}
	*value = a.String()
	if a.fixed() {
		if first, ok := taken[*value]; ok {
			line, _ := c.index.at(first)
			c.fault(path, fmt.Sprintf("%s is taken by %s on line %d", *value, first, line), "choose another")
		}
		taken[*value] = path
	}
	return a.Local()
}

// origin checks scheme://host[:port]; anyPort also takes `*` for the port.
func (c *checker) origin(path, value string, anyPort bool) {
	plain := value
	if anyPort {
		plain = strings.TrimSuffix(plain, ":*")
	}
	u, err := url.Parse(plain)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Scheme+"://"+u.Host != plain || plain != strings.ToLower(plain) || strings.Contains(u.Host, "*") {
		c.fault(path, shorten(value)+" is not scheme, host and port alone", "write it in lower case, such as https://mcp.example.org or http://localhost:8080, without a path")
	}
}

func (c *checker) servers() []string {
	names := map[string]string{}
	var list []string
	for i, s := range c.config.Servers {
		path := fmt.Sprintf("servers[%d]", i)
		c.unique(names, path+".name", s.Name)
		list = append(list, s.Name)
		if h := s.GetHttp(); h != nil {
			c.http(path+".http", h)
		}
		if p := s.GetStdio(); p != nil {
			c.stdio(path+".stdio", p)
		}
	}
	return list
}

func (c *checker) http(path string, h *configv1.HTTPTransport) {
	u, err := url.Parse(h.Url)
	const remedy = "write http:// or https://, host, path"
	switch at := path + ".url"; {
	case h.Url == "":
	case err != nil:
		c.fault(at, "is not a URL", remedy) // the error repeats the URL, in which a password may stand
	case u.Scheme != "http" && u.Scheme != "https":
		c.fault(at, shorten(u.Scheme)+" is not a scheme for it", remedy)
	case u.Hostname() == "":
		c.fault(at, "has no host", remedy)
	case u.User != nil:
		c.fault(at, "holds a user name or password", "use `credential`, and keep the secret in a file or the environment")
	case u.RawQuery != "" || u.ForceQuery:
		c.fault(at, "has a query", "send what it says as a header: `credential` for a secret, else `headers`")
	case u.Fragment != "":
		c.fault(at, "has a fragment", "leave out # and what follows")
	case !validPort(u):
		c.fault(at, "its port is not a number from 1 to 65535", remedy)
	case u.Scheme == "http" && h.Tls != nil:
		c.fault(path+".tls", "stands beside an http URL", "write https:// in `url`, or leave `tls` out")
	case u.Scheme == "http" && h.Credential != nil && !localHost(u.Hostname()):
		c.warn(path+".credential", "travels in the clear, since the URL is http", "write https:// in `url`")
	}
	if t := h.Tls; t != nil {
		c.authorities(path+".tls.ca_file", &t.CaFile)
		c.keyPair(path+".tls", &t.ClientCertFile, &t.ClientKeyFile)
	}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(h.Headers)) {
		at := path + ".headers[" + strconv.Quote(name) + "]"
		c.header(at, name, seen)
		c.value(at, h.Headers[name], "\r\n\x00")
	}
	if k := h.Credential; k != nil {
		c.header(path+".credential.header", k.Header, seen)
		c.secret(path+".credential.from", k.From)
		if strings.ContainsAny(k.GetPrefix(), "\r\n\x00") {
			c.fault(path+".credential.prefix", "holds a line break", "write one line, such as \"Bearer \"")
		}
	}
	for i, name := range h.ForwardHeaders {
		at := fmt.Sprintf("%s.forward_headers[%d]", path, i)
		if lower := strings.ToLower(name); slices.Contains(credentialHeaders, lower) {
			c.fault(at, lower+" is the client's credential, which never reaches a server", "give the server the gateway's own by `credential`")
			continue
		}
		c.header(at, name, map[string]string{})
	}
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.Atoi(u.Port())
	return err == nil && n >= 1 && n <= 65535
}

var (
	headerGrammar = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$") // RFC 9110, token
	// credentialHeaders are where a client's credentials stand.
	credentialHeaders = []string{"authorization", "proxy-authorization", "cookie", "x-api-key"}
	// ownHeaders are written by the gateway or by HTTP itself.
	ownHeaders = []string{
		"accept", "connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive",
		"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
	}
	ownPrefixes = []string{"mcp-", "x-envoy-", "x-mcpgw-"}
)

func (c *checker) header(path, name string, seen map[string]string) {
	lower := strings.ToLower(name)
	switch own := func(prefix string) bool { return strings.HasPrefix(lower, prefix) }; {
	case !headerGrammar.MatchString(name):
		c.fault(path, shorten(name)+" is not a header's name", "write letters, digits and hyphens, such as x-api-version")
	case slices.Contains(ownHeaders, lower) || slices.ContainsFunc(ownPrefixes, own):
		c.fault(path, lower+" is written by the gateway itself", "leave it out")
	case seen[lower] != "":
		c.fault(path, lower+" is set twice", "keep one")
	}
	seen[lower] = path
}

// value checks that a text can be fetched now and holds none of not.
func (c *checker) value(path string, v *configv1.Value, not string) {
	at := path
	switch source := v.GetSource().(type) {
	case nil:
		return
	case *configv1.Value_File:
		if at = path + ".file"; !c.readable(at, &source.File) {
			return
		}
	case *configv1.Value_Env:
		at = path + ".env"
	}
	text, err := ReadValue(v)
	switch {
	case err != nil:
		c.fault(at, err.Error(), "put the text there")
	case strings.ContainsAny(text.Reveal(), not):
		c.fault(at, "the text holds a character that cannot be sent", "a header is one line, and a variable has no zero byte")
	}
}

func (c *checker) secret(path string, s *configv1.SecretSource) {
	at := path + ".env"
	switch source := s.GetSource().(type) {
	case nil:
		return
	case *configv1.SecretSource_File:
		if at = path + ".file"; !c.readable(at, &source.File) {
			return
		}
	}
	text, err := ReadSecret(s)
	switch {
	case err != nil:
		c.fault(at, err.Error(), "put the secret there")
	case strings.ContainsAny(text.Reveal(), "\r\n\x00"):
		c.fault(at, "the secret holds a line break", "it must be one line")
	}
}

func (c *checker) stdio(path string, p *configv1.StdioTransport) {
	switch {
	case p.Command == "":
	case strings.ContainsRune(p.Command, filepath.Separator):
		c.resolve(&p.Command)
		if info, err := os.Stat(p.Command); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			c.fault(path+".command", p.Command+" is not a program", "name one that is there and may be executed")
		}
	default:
		if _, err := exec.LookPath(p.Command); err != nil {
			c.fault(path+".command", shorten(p.Command)+" is not in PATH", "install it, or give its path")
		}
	}
	if p.Cwd == "" {
		p.Cwd = c.dir
	} else {
		c.directory(path+".cwd", &p.Cwd)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		c.value(path+".env["+strconv.Quote(name)+"]", p.Env[name], "\x00")
	}
	if p.User != "" {
		if _, err := user.Lookup(p.User); err != nil {
			c.fault(path+".user", shorten(p.User)+" is no user of this machine", "name one that is")
		}
	}
}

func (c *checker) endpoints(servers []string) {
	var listeners []string
	for _, l := range c.config.Listeners {
		listeners = append(listeners, l.Name)
	}
	names := map[string]string{}
	paths := map[[2]string]string{} // by listener and path: who serves it
	for i, e := range c.config.Endpoints {
		path := fmt.Sprintf("endpoints[%d]", i)
		c.unique(names, path+".name", e.Name)
		c.urlPath(path+".path", e.Path)
		for j, name := range e.Listeners {
			if !slices.Contains(listeners, name) {
				c.fault(fmt.Sprintf("%s.listeners[%d]", path, j), "there is no listener "+shorten(name), among(name, listeners))
			}
		}
		selected := c.selection(path, e, servers)
		for name := range e.Prefixes {
			if !slices.Contains(servers, name) {
				c.fault(path+".prefixes["+strconv.Quote(name)+"]", "there is no server "+shorten(name), among(name, servers))
			}
		}
		on := e.Listeners
		if len(on) == 0 {
			on = listeners
		}
		for _, listener := range on {
			c.claim(paths, listener, e.Path, path+".path", "endpoint "+e.Name)
			if e.PerServer {
				for _, server := range selected {
					c.claim(paths, listener, PerServerPath(e.Path, server), path+".per_server", "server "+server+" of endpoint "+e.Name)
				}
			}
		}
	}
}

// PerServerPath is where an endpoint with `per_server` serves one server alone.
func PerServerPath(endpoint, server string) string {
	return strings.TrimSuffix(endpoint, "/") + "/" + server
}

func (c *checker) claim(paths map[[2]string]string, listener, url, path, who string) {
	key := [2]string{listener, url}
	if first, ok := paths[key]; ok {
		c.fault(path, fmt.Sprintf("%s is the path of %s and of %s", url, first, who), "give one of them another path, or another listener")
		return
	}
	paths[key] = who
}

var pathGrammar = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$|^/$`)

func (c *checker) urlPath(at, path string) {
	switch {
	case path == "":
	case !pathGrammar.MatchString(path) || slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return s == "." || s == ".." }):
		c.fault(at, shorten(path)+" is not a path that is compared byte by byte", "begin with /, use letters, digits and -._~, and end without /")
	case path == "/healthz" || path == "/.well-known" || strings.HasPrefix(path, "/.well-known/"):
		c.fault(at, path+" is the gateway's own", "choose another, such as /mcp")
	}
}

// selection returns the servers that the endpoint selects, in their order.
func (c *checker) selection(path string, e *configv1.Endpoint, servers []string) []string {
	taken := make([]bool, len(servers))
	for i, s := range e.Servers {
		at := fmt.Sprintf("%s.servers[%d]", path, i)
		for j, p := range s.Include {
			c.pattern(fmt.Sprintf("%s.include[%d]", at, j), p)
		}
		for j, p := range s.Exclude {
			c.pattern(fmt.Sprintf("%s.exclude[%d]", at, j), p)
		}
		if s.Server == "" {
			continue
		}
		match := c.pattern(at+".server", s.Server)
		if match == nil {
			continue
		}
		matched := false
		for n, name := range servers {
			if match.Match(name) {
				taken[n], matched = true, true
			}
		}
		switch {
		case matched:
		case !strings.ContainsAny(s.Server, `*?[]{}\`):
			c.fault(at+".server", "there is no server "+shorten(s.Server), among(s.Server, servers))
		case s.Server != "*":
			c.warn(at+".server", shorten(s.Server)+" matches no server", among("", servers))
		}
	}
	var selected []string
	for n, name := range servers {
		if taken[n] {
			selected = append(selected, name)
		}
	}
	return selected
}

func (c *checker) pattern(path, text string) *glob.Pattern {
	p, err := glob.Compile(text)
	if err != nil || text == "" {
		c.fault(path, shorten(text)+" is not a pattern", "write a name, or use * for any text, ? for one character, [a-z] for a range, {a,b} for one of several")
		return nil
	}
	return p
}

// among says which names there are, the nearest first.
func among(name string, names []string) string {
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	switch n := len(names); {
	case n == 0:
		return "none is configured"
	case n == 1:
		return "there is only " + names[0]
	case n > 10:
		return fmt.Sprintf("there are %s and %d more", strings.Join(names[:10], ", "), n-10)
	default:
		return "there are " + strings.Join(names, ", ")
	}
}

func (c *checker) policy() {
	p := c.config.Policy
	if p == nil {
		return
	}
	c.directory("policy.directory", &p.Directory)
	for i := range p.DataFiles {
		path := fmt.Sprintf("policy.data_files[%d]", i)
		if ext := filepath.Ext(p.DataFiles[i]); ext != ".json" && ext != ".yaml" && ext != ".yml" {
			c.fault(path, shorten(p.DataFiles[i])+" is neither JSON nor YAML by its name", "name a .json, .yaml or .yml file")
			continue
		}
		c.readable(path, &p.DataFiles[i])
	}
}

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
	for _, key := range []string{"quickstart-reader", "quickstart-writer"} {
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

func (c *checker) telemetry() {
	o := c.config.Telemetry.Otlp
	if o == nil {
		return
	}
	if o.Endpoint != "" {
		host, port, err := net.SplitHostPort(o.Endpoint)
		n, perr := strconv.Atoi(port)
		if err != nil || host == "" || strings.ContainsAny(host, "/ ") || perr != nil || n < 1 || n > 65535 {
			c.fault("telemetry.otlp.endpoint", shorten(o.Endpoint)+" is not host and port", "write HOST:PORT without a scheme, such as localhost:4317")
		}
	}
	if o.Tls != nil {
		c.authorities("telemetry.otlp.tls.ca_file", &o.Tls.CaFile)
	}
}

func (c *checker) admin(taken map[string]string) {
	if !c.address(taken, "admin.address", &c.config.Admin.Address) {
		c.fault("admin.address", c.config.Admin.Address+" can be reached by others, and has no authentication", "bind it to 127.0.0.1 or a unix socket")
	}
}

func (c *checker) limits() {
	l := c.config.Limits
	if l.GetBodiesInFlightBytes() < uint64(l.GetBodyBytes()) {
		c.fault("limits.bodies_in_flight_bytes", fmt.Sprintf("%d is less than one body", l.GetBodiesInFlightBytes()), fmt.Sprintf("write at least the body_bytes of %d", l.GetBodyBytes()))
	}
}

func (c *checker) envoy(taken map[string]string) {
	e := c.config.Envoy
	if e.Binary != "" {
		c.resolve(&e.Binary)
		if info, err := os.Stat(e.Binary); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			c.fault("envoy.binary", e.Binary+" is not a program", "name one that is there and may be executed, or leave it out")
		}
	}
	if e.RunDir != "" {
		c.resolve(&e.RunDir)
		if longest := filepath.Join(e.RunDir, "envoy-admin.sock"); len(longest) > maxSocketPath {
			c.fault("envoy.run_dir", fmt.Sprintf("%s is too long for a socket's path", e.RunDir), fmt.Sprintf("choose one of at most %d bytes", maxSocketPath-len("/envoy-admin.sock")))
		}
	}
	f := e.Front
	if f == nil {
		return
	}
	c.address(taken, "envoy.front.address", &f.Address)
	unix := strings.HasPrefix(f.Address, "unix:")
	switch {
	case f.Tls != nil && f.InsecureTcp:
		c.fault("envoy.front.insecure_tcp", "stands beside `tls`", "keep one of them")
	case unix && f.Tls != nil:
		c.fault("envoy.front.tls", "stands beside a unix socket", "leave it out, or write IP:PORT as the address")
	case unix && f.InsecureTcp:
		c.fault("envoy.front.insecure_tcp", "stands beside a unix socket", "leave it out")
	case !unix && f.Address != "" && f.Tls == nil && !f.InsecureTcp:
		c.fault("envoy.front", "is a port without TLS: whoever reaches it could speak as Envoy", "add `tls`, or use unix:PATH; `insecure_tcp: true` only where a mesh supplies mutual TLS")
	case f.InsecureTcp:
		c.warn("envoy.front.insecure_tcp", "whoever reaches "+f.Address+" can speak as Envoy", "make sure that the mesh lets nobody else in")
	}
	if t := f.Tls; t != nil {
		c.keyPair("envoy.front.tls", &t.CertFile, &t.KeyFile)
		c.authorities("envoy.front.tls.client_ca_file", &t.ClientCaFile)
	}
}

// resolve makes *path absolute, from the directory of the configuration file.
func (c *checker) resolve(path *string) {
	if *path != "" && !filepath.IsAbs(*path) {
		*path = filepath.Join(c.dir, *path)
	}
}

// readable resolves *path to a file and reports if there is none to read.
func (c *checker) readable(at string, path *string) bool {
	if *path == "" {
		return false
	}
	c.resolve(path)
	c.files[*path] = true
	info, err := os.Stat(*path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = errors.New("is not there")
	case err != nil:
		err = reason(err)
	case info.IsDir():
		err = errors.New("is a directory")
	case !info.Mode().IsRegular():
		err = errors.New("is not a regular file")
	default:
		var f *os.File
		if f, err = os.Open(*path); err == nil {
			_ = f.Close()
			return true
		}
		err = reason(err)
	}
	c.fault(at, *path+" "+err.Error(), "name a file that mcpgw can read; a relative path begins at "+c.dir)
	return false
}

func (c *checker) directory(at string, path *string) {
	if *path == "" {
		return
	}
	c.resolve(path)
	c.files[*path] = true
	info, err := os.Stat(*path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.fault(at, *path+" is not there", "name a directory; a relative path begins at "+c.dir)
	case err != nil:
		c.fault(at, *path+": "+reason(err).Error(), "name a directory that mcpgw can read")
	case !info.IsDir():
		c.fault(at, *path+" is not a directory", "name the directory that holds it")
	}
}

// keyPair checks that a certificate and a key are there and belong together.
// The fields are path.cert_file and path.key_file, or the client_ ones.
func (c *checker) keyPair(path string, cert, key *string) {
	prefix := ""
	if c.index.nodes[path+".client_cert_file"] != nil || c.index.nodes[path+".client_key_file"] != nil {
		prefix = "client_"
	}
	certPath, keyPath := path+"."+prefix+"cert_file", path+"."+prefix+"key_file"
	if *cert == "" || *key == "" {
		if prefix != "" { // else the proto's own rules say it
			if *cert != *key {
				c.fault(path, "holds one of client_cert_file and client_key_file", "write both, or none")
			}
		}
		return
	}
	certThere, keyThere := c.readable(certPath, cert), c.readable(keyPath, key)
	if !certThere || !keyThere {
		return
	}
	if _, err := tls.LoadX509KeyPair(*cert, *key); err != nil {
		c.fault(certPath, "certificate and key do not make a pair: "+strings.TrimPrefix(err.Error(), "tls: "), "name a PEM certificate and its own PEM key")
	}
}

func (c *checker) authorities(at string, path *string) {
	if !c.readable(at, path) {
		return
	}
	data, err := readBounded(*path, MaxBytes)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		err = errors.New("holds no certificate")
	}
	if err != nil {
		c.fault(at, *path+" "+err.Error(), "name a PEM file of certificates")
	}
}
