package server

import (
	"context"
	"crypto/tls"

	"github.com/mcpgw/mcpgw/pkg/config"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

type child struct{}

func (s *Server) startEnvoy(context.Context, *config.Config) error { return nil }
func (s *Server) awaitEnvoy(context.Context) error                 { return nil }
func (s *Server) envoyFailed() <-chan error                        { return nil }
func (s *Server) envoyPID() int                                    { return 0 }
func (s *Server) urls(context.Context) string                      { return "" }
func (s *Server) drain()                                           {}

func collectorTLS(*configv1.OTLPTLS) (*tls.Config, error)                   { return nil, nil }
func validateEnvoy(context.Context, *config.Config, string) (string, error) { return "", nil }
