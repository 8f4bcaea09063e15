package showcase

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/echo"
)

// patience is how long one connection or request may take. It is long, for a
// machine may be busy; how long it took is shown where it matters.
const patience = 20 * time.Second

// Dialer opens connections from where it is: a namespace, a Pod. Addresses are
// literal ones.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Line asks a TCP or UDP echo server, which says its name in one line.
func Line(from Dialer, network string, to netip.AddrPort) Ask {
	return func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		conn, err := from.DialContext(ctx, network, to.String())
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("who?\n")); err != nil {
			return "", err
		}
		said, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", network, to, err)
		}
		who, _, _ := strings.Cut(said, " ")
		return who, nil
	}
}

// Web is an HTTP client somewhere, which asks for one host at one address.
type Web struct {
	client    *http.Client
	transport *http.Transport
	scheme    string
	to        netip.AddrPort
	host      string
}

// HTTP asks for a host at an address, each time on a new connection.
func HTTP(from Dialer, to netip.AddrPort, host string) *Web {
	transport := &http.Transport{
		DialContext: from.DialContext, DisableKeepAlives: true,
		TLSHandshakeTimeout: patience, MaxIdleConnsPerHost: 64,
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Web{client: client, transport: transport, scheme: "http", to: to, host: host}
}

// HTTPS does it over TLS, and trusts nothing but the given certificates.
func HTTPS(from Dialer, to netip.AddrPort, host string, config *tls.Config) *Web {
	c := HTTP(from, to, host)
	c.scheme = "https"
	c.transport.TLSClientConfig = config.Clone()
	c.transport.TLSClientConfig.ServerName = host
	return c
}

// KeepAlive asks on connections that stay.
func (c *Web) KeepAlive() *Web {
	c.transport.DisableKeepAlives = false
	return c
}

// Get makes one request. An answer other than 200 is an error.
func (c *Web) Get(ctx context.Context) (*echo.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.scheme+"://"+c.to.String()+"/", nil)
	if err != nil {
		return nil, err
	}
	request.Host = c.host
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, &statusError{response.StatusCode, strings.TrimSpace(string(body))}
	}
	var answer echo.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", c.host, err)
	}
	return &answer, nil
}

// Ask says which Pod answered.
func (c *Web) Ask(ctx context.Context) (string, error) {
	answer, err := c.Get(ctx)
	if err != nil {
		return "", err
	}
	return answer.Name, nil
}

// statusError is an HTTP answer that is not 200.
type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP status %d %s", e.code, e.body) }
