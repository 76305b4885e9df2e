package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

func (c *checker) policy() {
	p := c.config.Policy
	if p == nil {
		return
	}
	c.rego("policy", &p.Directory, p.DataFiles, p.Bundle)
	if s := p.Shadow; s != nil {
		c.rego("policy.shadow", &s.Directory, s.DataFiles, s.Bundle)
	}
	if l := p.DecisionLog; l != nil {
		c.resolve(&l.File)
		if !l.Console && l.File == "" && l.Url == "" {
			c.fault("policy.decision_log", "names no place to write to", "write one of console: true, file: PATH, url: https://HOST")
		}
		for _, dir := range []string{p.Directory, p.GetShadow().GetDirectory()} {
			if rel, err := filepath.Rel(dir, l.File); dir != "" && l.File != "" && err == nil && !strings.HasPrefix(rel, "..") {
				c.fault("policy.decision_log.file", "lies in a policy's directory, so that every entry would reload it", "name a file elsewhere")
			}
		}
		if l.Url != "" {
			c.serviceURL("policy.decision_log.url", l.Url)
		}
		c.secret("policy.decision_log.token", l.Token)
		c.authorities("policy.decision_log.ca_file", &l.CaFile)
	}
	if p.Labels != nil {
		c.resolve(&p.Labels.File)
	}
	if l := c.config.Limits; p.GetRedactBytes() > l.GetServerMessageBytes() {
		c.fault("policy.redact_bytes", fmt.Sprintf("%d is more than one message may have", p.GetRedactBytes()), fmt.Sprintf("write at most the limits.server_message_bytes of %d", l.GetServerMessageBytes()))
	}
}

// rego checks where one policy comes from.
func (c *checker) rego(at string, directory *string, data []string, b *configv1.Bundle) {
	switch {
	case *directory == "" && b == nil:
		if !c.index.odd[at] { // else the unknown field is what was meant
			c.fault(at, "names no policy", "add `directory: policies`, the directory of the .rego files, or a `bundle`")
		}
	case *directory != "" && b != nil:
		c.fault(at+".bundle", "stands beside a directory", "keep one of the two")
	case b != nil && len(data) > 0:
		c.fault(at+".data_files", "stand beside a bundle, which holds its own data", "put them into the bundle")
	}
	c.directory(at+".directory", directory)
	for i := range data {
		path := fmt.Sprintf("%s.data_files[%d]", at, i)
		if ext := filepath.Ext(data[i]); ext != ".json" && ext != ".yaml" && ext != ".yml" {
			c.fault(path, shorten(data[i])+" is neither JSON nor YAML by its name", "name a .json, .yaml or .yml file")
			continue
		}
		c.readable(path, &data[i])
	}
	c.forgotten(at, *directory, data)
	if b == nil {
		return
	}
	at += ".bundle"
	if s, ok := b.Source.(*configv1.Bundle_Path); ok {
		c.resolve(&s.Path)
		c.files[s.Path] = true
	}
	if b.GetUrl() != "" {
		c.serviceURL(at+".url", b.GetUrl())
	}
	if b.LongPoll != nil && b.GetUrl() == "" {
		c.fault(at+".long_poll", "needs a server that is asked over HTTP", "leave it out, or name a `url`")
	}
	if v := b.Verification; v != nil {
		c.readable(at+".verification.key_file", &v.KeyFile)
	}
	c.secret(at+".token", b.Token)
	c.authorities(at+".ca_file", &b.CaFile)
}

// forgotten warns of data that mcpgw policy check, test and bundle read where they are given the directory, and the gateway does not.
func (c *checker) forgotten(at, directory string, data []string) {
	if directory == "" {
		return
	}
	for _, name := range []string{"data.json", "data.yaml", "data.yml"} {
		file := filepath.Join(directory, name)
		if _, err := os.Stat(file); err != nil || slices.Contains(data, file) {
			continue
		}
		if rel, err := filepath.Rel(c.dir, file); err == nil && filepath.IsLocal(rel) {
			file = rel
		}
		c.warn(at+".directory", name+" lies in it, and no rule sees it", fmt.Sprintf("add `data_files: [%s]`, or give the file another name", file))
	}
}

// serviceURL checks the address of something that only policy needs.
func (c *checker) serviceURL(at, text string) {
	u, err := url.Parse(text)
	const remedy = "write http:// or https://, host, path"
	switch {
	case err != nil:
		c.fault(at, "is not a URL", remedy) // the error repeats the URL, in which a password may stand
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !validPort(u):
		c.fault(at, shorten(text)+" is not the URL of a service", remedy)
	case u.User != nil:
		c.fault(at, "holds a user name or password", "use `token`, and keep the secret in a file or the environment")
	}
}

func (c *checker) pins() {
	if p := c.config.Pins; p != nil {
		c.resolve(&p.File)
		c.files[p.File] = true
	}
}

func (c *checker) extAuthz(taken map[string]string, servers []string) {
	for i, e := range c.config.ExtAuthz {
		at := fmt.Sprintf("ext_authz[%d]", i)
		if !c.address(taken, at+".address", &e.Address) {
			c.fault(at+".address", e.Address+" can be reached by others, and has no authentication", "bind it to 127.0.0.1 or a unix socket")
		}
		if e.Server != "" && !slices.Contains(servers, e.Server) {
			c.fault(at+".server", "there is no server "+shorten(e.Server), "name one of `servers`")
		}
		if e.Listener != "" && !slices.ContainsFunc(c.config.Listeners, func(l *configv1.Listener) bool { return l.Name == e.Listener }) {
			c.fault(at+".listener", "there is no listener "+shorten(e.Listener), "name one of `listeners`")
		}
	}
}
