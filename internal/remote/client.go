package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Client asks a [Serve] at the other end.
type Client struct {
	http *http.Client
	conn *pipeConn
}

// NewClient speaks on a connection, and waits for the first answer on it.
func NewClient(ctx context.Context, in io.Reader, out io.WriteCloser) (*Client, error) {
	conn := &pipeConn{Reader: in, WriteCloser: out, closed: make(chan struct{})}
	once := make(chan net.Conn, 1)
	once <- conn
	c := &Client{conn: conn, http: &http.Client{Transport: &http.Transport{
		Protocols: onlyHTTP2(),
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case conn := <-once:
				return conn, nil
			default:
				return nil, errors.New("the connection to the Pod has ended")
			}
		},
	}}}
	// Until the server has said how many streams there may be, they are few.
	if _, err := c.ResolvConf(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends the connection, and so the server.
func (c *Client) Close() error { return c.conn.Close() }

// ResolvConf returns the Pod's.
func (c *Client) ResolvConf(ctx context.Context) (string, error) {
	return c.get(ctx, query(pathResolv, nil))
}

// Kill sends SIGKILL to the processes of a container of the Pod's node; the Pod
// must see the node's processes. container is its identifier, without the
// runtime's name.
func (c *Client) Kill(ctx context.Context, container string) error {
	_, err := c.get(ctx, query(pathKill, url.Values{"container": {container}}))
	return err
}

func (c *Client) get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	b, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(b)))
	}
	return string(b), err
}

// DialContext connects from inside the Pod, over TCP or UDP.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	// The connection outlives the context that it is made in.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	body, toBody := io.Pipe()
	target := query(pathDial, url.Values{"network": {network}, "address": {address}})
	request, err := http.NewRequestWithContext(life, http.MethodPost, target, body)
	if err != nil {
		end()
		return nil, err
	}
	response, err := c.http.Do(request) //nolint:bodyclose // it ends with the connection
	if err == nil && response.StatusCode != http.StatusOK {
		var b []byte
		b, err = io.ReadAll(response.Body)
		err = errors.Join(err, errors.New(strings.TrimSpace(string(b))), response.Body.Close())
	}
	if err == nil && !stop() {
		err = errors.Join(ctx.Err(), response.Body.Close())
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("dial from a Pod: %w", err)
	}
	ours, theirs := net.Pipe()
	go func() {
		_ = transfer(toBody, theirs, false, isDatagram(network))
		_ = toBody.Close()
		end()
	}()
	go func() {
		_ = transfer(theirs, response.Body, isDatagram(network), false)
		_ = theirs.Close()
		_ = response.Body.Close()
	}()
	if isDatagram(network) {
		return &datagrams{ours}, nil
	}
	return ours, nil
}

// datagrams is a connection that keeps them apart, as those of packages net and
// dns do that are of this type.
type datagrams struct{ net.Conn }

// ReadFrom implements [net.PacketConn].
func (d *datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := d.Read(b)
	return n, d.RemoteAddr(), err
}

// WriteTo implements [net.PacketConn].
func (d *datagrams) WriteTo(b []byte, _ net.Addr) (int, error) { return d.Write(b) }
