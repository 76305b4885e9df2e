package server

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// decisions is what one world does with its rulings.
type decisions struct {
	log     *decision.Log // nil: none. Worlds that want the same outputs share it
	rules   *decision.Rules
	outputs *configv1.DecisionLog // and roots: what log was made of
	roots   []byte
	fresh   bool // log belongs to nobody yet
	compare bool // there is a shadow
}

// put hands on a ruling; it never waits.
func (d *decisions) put(s *decision.Shadow, e decision.Entry) {
	if d.log != nil {
		d.log.Put(e, d.rules)
	}
	if d.compare {
		s.Put(e)
	}
}

// close lets go of what is not used.
func (d *decisions) close() {
	if d.fresh {
		d.log.Close()
	}
}

// buildDecisions makes what a world does with its rulings.
func (s *Server) buildDecisions(ctx context.Context, b *built) error {
	p, d := b.config.Proto.Policy, &b.decisions
	old := s.now()
	*d = decisions{compare: b.shadow != nil && b.shadow.engine != nil}
	if p.DecisionLog == nil {
		return nil
	}
	path := "mcpgw/main/ruling"
	if p.EntryPoint != "" {
		path = strings.ReplaceAll(p.EntryPoint, ".", "/")
	}
	modules := map[string]string{}
	if b.engine != nil { // else nothing is ruled on
		for _, f := range b.engine.LogRules() {
			modules[f.Name] = string(f.Text)
		}
	}
	var err error
	d.rules, err = decision.NewRules(ctx, decision.RulesOptions{
		Modules: modules, Path: path, ID: b.config.Proto.Envoy.NodeId, Labels: map[string]string{"mcpgw": s.opts.Version},
	})
	if err != nil {
		return fmt.Errorf("package system.log: %w", err)
	}
	d.outputs = p.DecisionLog
	var pool *x509.CertPool
	if pool, d.roots, err = authorities("policy.decision_log.ca_file", d.outputs.CaFile); err != nil {
		return err
	}
	if old != nil && old.decisions.log != nil && proto.Equal(old.decisions.outputs, d.outputs) && bytes.Equal(old.decisions.roots, d.roots) {
		d.log = old.decisions.log
		return nil
	}
	o := decision.LogOptions{
		File: d.outputs.File, FileBytes: int64(d.outputs.GetFileBytes()), Files: int(d.outputs.GetFiles()),
		URL: d.outputs.Url, Roots: pool, Log: s.log.With("component", "decisions"), Lost: &s.logLost,
	}
	if d.outputs.Console {
		o.Console = os.Stderr
	}
	if t := d.outputs.Token; t != nil {
		o.Token = func() (identity.Secret, error) { return config.ReadSecret(t) }
	}
	d.log, err = decision.NewLog(o)
	d.fresh = err == nil
	return err
}

// swapDecisions turns over to b's. s.mu is held.
func (s *Server) swapDecisions(b *built) {
	d := b.decisions
	s.decisions.Store(&d)
	var e policy.Engine
	fault := ""
	if b.shadow != nil {
		if b.shadow.engine != nil {
			e = b.shadow.engine
		}
		if b.shadow.missing != nil {
			fault = b.shadow.missing.Error()
		}
	}
	s.shadow.Set(e, fault, int(b.config.Proto.Policy.GetShadow().GetSamples()))
}

// installDecisions starts and ends what writes in the background.
func (s *Server) installDecisions(b *built) {
	d := &b.decisions
	switch {
	case d.fresh:
		d.fresh = false
		s.crew.start("decision log", d.log.Run) // ends the one before, which writes what it has
	case d.log == nil:
		s.crew.stop("decision log")
	}
}

func (s *Server) newShadow() {
	s.shadow = decision.NewShadow(decision.ShadowOptions{
		Log: s.log.With("component", "shadow"),
		Disagreed: func(d decision.Disagreement) {
			s.telemetry.Metrics.Shadow(d.Action, d.Server, d.Kind, d.Item, d.Live, d.Shadow)
		},
	})
}

func (s *Server) shadowLoaded() int {
	revision, fault := s.shadow.Status()
	switch {
	case fault != "":
		return 0
	case revision != "":
		return 1
	}
	return -1
}

// ShadowReport is what `mcpgw policy shadow` shows.
type ShadowReport struct {
	*decision.ShadowReport
	Policy string    `json:"policy"` // revision of the policy in force
	Now    time.Time `json:"now"`
}

func (s *Server) shadowRoutes() []admin.Route {
	report := func(w http.ResponseWriter, _ *http.Request, _ string) {
		r := ShadowReport{ShadowReport: s.shadow.Report(), Now: time.Now()}
		if b := s.now(); b != nil && b.engine != nil {
			r.Policy = b.engine.Revision()
		}
		admin.Write(w, r)
	}
	return []admin.Route{
		{Pattern: "GET /policy/shadow", May: "policy", Serve: report},
		{Pattern: "POST /policy/shadow/reset", May: "policy", Serve: func(w http.ResponseWriter, r *http.Request, operator string) {
			s.shadow.Reset()
			s.log.Info("the shadow's counts were reset", "operator", operator)
			report(w, r, operator)
		}},
	}
}
