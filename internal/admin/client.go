package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// Client asks the process behind a socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the socket's process.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Table returns the table of a resource.
func (c *Client) Table(ctx context.Context, resource string) (Table, error) {
	var t Table
	return t, c.get(ctx, "/tables/"+url.PathEscape(resource), &t)
}

// Wide returns the table of a resource with what costs more to find out.
func (c *Client) Wide(ctx context.Context, resource string) (Table, error) {
	var t Table
	return t, c.get(ctx, "/tables/"+url.PathEscape(resource)+"?wide", &t)
}

// Ask decodes the answer to a question into answer.
func (c *Client) Ask(ctx context.Context, question string, q url.Values, answer any) error {
	return c.get(ctx, "/ask/"+url.PathEscape(question)+"?"+q.Encode(), answer)
}

func (c *Client) get(ctx context.Context, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sluice"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no sluice answers on %s: start one, or name its socket with --socket", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may only be opened by the user that runs sluice", c.socket)
	case err != nil:
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		var p problem
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Error == "" {
			return fmt.Errorf("%s answered %s", c.socket, resp.Status)
		}
		return errors.New(p.Error)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}
