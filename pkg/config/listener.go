package config

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

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
