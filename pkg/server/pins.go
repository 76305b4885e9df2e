package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// loadLock reads the lock file of a configuration. Without pins there is none, and nothing drifts. A file that is not there holds
// nothing, so that every item is new; missing says so. A file that cannot be read as a lock is a fault.
func loadLock(p *configv1.Pins) (lock *catalog.Lock, missing bool, err error) {
	if p == nil {
		return nil, false, nil
	}
	lock, err = ReadLock(p.File)
	if errors.Is(err, os.ErrNotExist) {
		return catalog.NewLock(), true, nil
	}
	return lock, false, err
}

// ReadLock reads a lock file. The error names it and says how to get a good one; it is os.ErrNotExist where there is none.
func ReadLock(file string) (*catalog.Lock, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(f, catalog.MaxLock+1))
	if err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	lock, err := catalog.ReadLock(text)
	if err != nil {
		return nil, fmt.Errorf("pins: %s: %w; take the last good version, or move it away and write it anew with mcpgw catalog pin", file, err)
	}
	return lock, nil
}

// missingLock is what an operator should know of a lock file that is not there.
func missingLock(file string) string {
	return "pins: " + file + " does not exist: every item counts as new; write it with mcpgw catalog pin"
}

// PinsReport is what `mcpgw catalog pin` and `mcpgw catalog diff` ask for.
type PinsReport struct {
	File    string          `json:"file,omitempty"` // of the configuration in force
	Servers []PinsServer    `json:"servers"`
	Items   []catalog.Offer `json:"items"`
}

// PinsServer says whether a server's items are known.
type PinsServer struct {
	Server   string `json:"server"`
	Answered bool   `json:"answered"`
}

func (s *Server) pinsReport() (*PinsReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.world == nil || !s.open {
		return nil, errors.New("the gateway is starting; ask again")
	}
	c := s.gateway.Snapshot().Catalog
	r := &PinsReport{File: s.world.config.Proto.Pins.GetFile(), Servers: []PinsServer{}, Items: c.Offers()}
	for _, srv := range s.world.config.Proto.Servers {
		src := c.Source(srv.Name)
		r.Servers = append(r.Servers, PinsServer{srv.Name, src != nil && !src.Fetched.IsZero()})
	}
	return r, nil
}

// pinsRoute shows the definitions of all items, which are more than the names that everybody may see.
func (s *Server) pinsRoute() admin.Route {
	return admin.Route{Pattern: "GET /catalog/pins", May: "policy", Serve: func(w http.ResponseWriter, _ *http.Request, _ string) {
		r, err := s.pinsReport()
		if err != nil {
			admin.Fail(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		admin.Write(w, r)
	}}
}
