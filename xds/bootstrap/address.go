package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// maxSocketPath is the longest path of a Unix socket, unix(7): sun_path has
// 108 bytes with the final zero.
const maxSocketPath = 107

// address is an address in Envoy's terms: of a Unix socket if there is a
// slash, else host:port.
func address(where string) (*corev3.Address, error) {
	if strings.Contains(where, "/") {
		if len(where) > maxSocketPath {
			return nil, fmt.Errorf("the socket's path has %d bytes, %d at most are possible: %s", len(where), maxSocketPath, where)
		}
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: where, Mode: 0o600}}}, nil
	}
	host, portText, err := net.SplitHostPort(where)
	if err != nil {
		return nil, fmt.Errorf("%q is neither the path of a socket nor host:port: %w", where, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q: the port: %w", where, err)
	}
	if host == "" {
		return nil, fmt.Errorf("%q: %w", where, errors.New("no host"))
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}, nil
}

// compact takes the insignificant spaces out of JSON.
func compact(raw []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
