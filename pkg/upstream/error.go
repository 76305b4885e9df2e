package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"

	"github.com/mcpgw/mcpgw/pkg/sse"
)

// Reason says what is wrong with a server, in words that may be shown to anyone: never an address, never its own text.
type Reason string

// The reasons.
const (
	Unavailable  Reason = "unavailable"  // no connection, a cut answer, or a 5xx status
	Timeout      Reason = "timeout"      // no answer in time
	Unauthorized Reason = "unauthorized" // 401 or 403: the gateway's credential for it is missing or wrong
	NotMCP       Reason = "not_mcp"      // it answers, but not as an MCP server does
	Version      Reason = "version"      // it speaks no revision that the gateway speaks
	TooLarge     Reason = "too_large"    // an answer above the bound
	Refused      Reason = "refused"      // a JSON-RPC error where a result is due
)

// Error is why a server could not be used. Its text holds no more than the step and the reason; Cause is for logs.
type Error struct {
	Reason Reason
	Step   string // the method, or what was done
	Status int    // HTTP status, 0 where there was none
	Code   int    // JSON-RPC error code, 0 where there was none
	Data   []byte // JSON-RPC error data, or nil
	Cause  error
}

// Error is the step and the reason.
func (e *Error) Error() string { return e.Step + ": " + string(e.Reason) }

// Unwrap is the cause, which may hold addresses.
func (e *Error) Unwrap() error { return e.Cause }

// ReasonOf is the reason of any error that this package returns; others count as unavailable.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return reason(err)
}

// reason classifies what a transport or a reader returned.
func reason(err error) Reason {
	var n net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &n) && n.Timeout():
		return Timeout
	case errors.Is(err, sse.ErrTooLarge), errors.Is(err, errTooLarge):
		return TooLarge
	}
	return Unavailable
}

// refusal is the reason that a status alone gives, empty where the body decides.
func refusal(status int) Reason {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return Unauthorized
	case status == http.StatusGatewayTimeout:
		return Timeout
	case status >= 500:
		return Unavailable
	case status >= 300 && status < 400, status == http.StatusAccepted, status == http.StatusNoContent:
		return NotMCP
	}
	return ""
}
