package config

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// servers returns the names of the servers, each once.
func (c *checker) servers() []string {
	names := map[string]string{}
	var list []string
	for i, s := range c.config.Servers {
		path := fmt.Sprintf("servers[%d]", i)
		c.unique(names, path+".name", s.Name)
		if names[s.Name] == path+".name" { // not missing, and not another's
			list = append(list, s.Name)
		}
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
