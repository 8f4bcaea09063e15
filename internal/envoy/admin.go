package envoy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Admin talks to an Envoy's administration interface.
type Admin struct {
	client *http.Client
}

// NewAdmin returns a client of the interface at addr, which is the path of a
// Unix socket (anything with a slash) or host:port.
func NewAdmin(addr string) *Admin {
	network := "tcp"
	if strings.Contains(addr, "/") {
		network = "unix"
	}
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	return &Admin{client: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, addr)
			},
			// A connection kept alive would hang on a dead Envoy's socket
			// when the next one takes its place.
			DisableKeepAlives: true,
		},
	}}
}

// Get returns the body of a page, such as "/clusters?format=json".
func (a *Admin) Get(ctx context.Context, path string) ([]byte, error) {
	return a.do(ctx, http.MethodGet, path)
}

// Post does what the page is there for, such as "/drain_listeners?graceful".
func (a *Admin) Post(ctx context.Context, path string) ([]byte, error) {
	return a.do(ctx, http.MethodPost, path)
}

func (a *Admin) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("admin interface of Envoy: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("admin interface of Envoy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return body, fmt.Errorf("admin interface of Envoy: %s: %s: %s", path, resp.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// Ready returns nil if Envoy is live, that is has its first configuration of
// every type.
func (a *Admin) Ready(ctx context.Context) error {
	_, err := a.Get(ctx, "/ready")
	return err
}

// Connections counts the connections open on Envoy's listeners, without those
// of the administration interface.
func (a *Admin) Connections(ctx context.Context) (int, error) {
	body, err := a.Get(ctx, `/stats?filter=^listener\..*downstream_cx_active$`)
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(name, "listener.admin.") || strings.Contains(name, ".worker_") {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("statistics of Envoy: %q: %w", line, err)
		}
		sum += n
	}
	return sum, nil
}
