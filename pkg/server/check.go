package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/bundle"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/xds"
)

// Render makes the configuration of an Envoy that someone else runs: an xDS bootstrap, or everything. Secrets stand in it as
// references. The egress token is kept in the run directory, which is made where it does not exist.
func Render(c *config.Config, static bool) ([]byte, error) {
	dir, _, err := runDir(c.Proto.Envoy.GetRunDir())
	if err != nil {
		return nil, err
	}
	token, err := Token(dir, true)
	if err != nil {
		return nil, err
	}
	return render(c, Sockets(dir), token, static)
}

func render(c *config.Config, s xds.Sockets, token string, static bool) ([]byte, error) {
	w, err := world(c.Proto, s, token, false)
	if err != nil {
		return nil, err
	}
	if static {
		return xds.Static(w)
	}
	return xds.Bootstrap(w)
}

// CheckReport is what is wrong with a configuration, and what ought to be looked at.
type CheckReport struct {
	Faults   []string `json:"faults"`
	Warnings []string `json:"warnings"`
	Envoy    string   `json:"envoy"` // what was done about the rendered configuration
}

// Check validates everything that can be validated without starting it: configuration, policies, and with an Envoy binary what is
// rendered for it.
func Check(ctx context.Context, load func() (*config.Config, error)) CheckReport {
	r := CheckReport{Faults: []string{}, Warnings: []string{}, Envoy: "configuration and policies; no Envoy configuration was checked"}
	c, err := load()
	if err != nil {
		r.Faults = lines(err)
		return r
	}
	for _, w := range c.Warnings {
		r.Warnings = append(r.Warnings, w.Error())
	}
	if _, missing, err := loadLock(c.Proto.Pins); err != nil {
		r.Faults = append(r.Faults, lines(err)...)
	} else if missing {
		r.Warnings = append(r.Warnings, missingLock(c.Proto.Pins.File))
	}
	engine, err := LoadPolicy(c.Proto.Policy)
	switch {
	case bundle.Absent(err):
		r.Warnings = append(r.Warnings, err.Error()+": the policy was not checked")
	case err != nil:
		r.Faults = append(r.Faults, lines(err)...)
	default:
		supplied := suppliesAnnotations(c)
		for _, w := range engine.Warnings() {
			if w.Kind == opa.Annotations && supplied {
				continue
			}
			r.Warnings = append(r.Warnings, w.String())
		}
	}
	if shadow := c.Proto.Policy.Shadow; shadow != nil {
		if _, err := loadPolicy(ctx, shadowSource(shadow), compiler(c.Proto.Policy)); bundle.Absent(err) {
			r.Warnings = append(r.Warnings, "shadow: "+err.Error()+": the policy was not checked")
		} else if err != nil {
			for _, line := range lines(err) {
				r.Faults = append(r.Faults, "shadow: "+line)
			}
		}
	}
	for _, e := range endpoints(c.Proto) {
		if err := e.Check(); err != nil {
			r.Faults = append(r.Faults, fmt.Sprintf("%s: endpoint %s: %v", c.File, e.Name, err))
		}
	}
	dir, err := os.MkdirTemp("", "mcpgw-check-")
	if err != nil {
		r.Faults = append(r.Faults, err.Error())
		return r
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary directory that stays harms nothing
	token, err := Token(dir, false)
	if err != nil {
		r.Faults = append(r.Faults, err.Error())
		return r
	}
	b, err := render(c, Sockets(dir), token, true)
	if err != nil {
		r.Faults = append(r.Faults, lines(err)...)
		return r
	}
	said, err := validateEnvoy(ctx, c, b)
	if err != nil {
		r.Faults = append(r.Faults, err.Error())
	}
	r.Envoy = said
	return r
}

// suppliesAnnotations reports whether any server's annotations can count.
func suppliesAnnotations(c *config.Config) bool {
	for _, s := range c.Proto.Servers {
		if s.TrustAnnotations || len(s.Annotations) > 0 {
			return true
		}
	}
	return false
}

// lines takes a joined error apart.
func lines(err error) []string {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		var out []string
		for _, e := range many.Unwrap() {
			out = append(out, lines(e)...)
		}
		return out
	}
	return strings.Split(strings.TrimSpace(err.Error()), "\n")
}
