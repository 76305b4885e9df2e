package config

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

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
	public := c.listeners(taken)
	servers := c.servers()
	c.endpoints(servers)
	c.policy()
	c.pins()
	c.extAuthz(taken, servers)
	c.authentication(public)
	c.telemetry()
	c.admin(taken, public)
	c.limits()
	c.envoy()
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

func (c *checker) admin(taken map[string]string, public string) {
	if !c.address(taken, "admin.address", &c.config.Admin.Address) {
		c.fault("admin.address", c.config.Admin.Address+" can be reached by others, and has no authentication", "bind it to 127.0.0.1 or a unix socket")
	}
	names, digests := map[string]string{}, map[string]string{}
	for i, o := range c.config.Admin.Operators {
		c.unique(names, fmt.Sprintf("admin.operators[%d].id", i), o.Id)
		path := fmt.Sprintf("admin.operators[%d].digest", i)
		c.unique(digests, path, o.Digest)
		if name := quickstartKey(o.Digest); name != "" && public != "" {
			c.fault(path, fmt.Sprintf("is the quick start's key %s, which everyone knows, and others can reach the listener %s", name, public), "make a key by `mcpgw key new`")
		}
	}
}

func (c *checker) limits() {
	l := c.config.Limits
	if l.GetBodiesInFlightBytes() < uint64(l.GetBodyBytes()) {
		c.fault("limits.bodies_in_flight_bytes", fmt.Sprintf("%d is less than one body", l.GetBodiesInFlightBytes()), fmt.Sprintf("write at least the body_bytes of %d", l.GetBodyBytes()))
	}
}

func (c *checker) envoy() {
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
