package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// redis sends one command over a connection of its own and gives the answer as
// text. An array or anything else that no command here answers is an error.
func redis(ctx context.Context, address string, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	var request strings.Builder
	fmt.Fprintf(&request, "*%d\r\n", len(command))
	for _, part := range command {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(part), part)
	}
	if _, err := io.WriteString(conn, request.String()); err != nil {
		return "", err
	}
	return answer(bufio.NewReader(conn))
}

// maxAnswer bounds what an answer may claim to be long.
const maxAnswer = 1 << 20

// answer reads one: +text, -error, :number or $length with as many bytes.
func answer(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("answer of redis: %w", err)
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok || line == "" {
		return "", fmt.Errorf("answer of redis: %q", line)
	}
	switch line[0] {
	case '+', ':':
		return line[1:], nil
	case '-':
		return "", errors.New("redis: " + line[1:])
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil || n > maxAnswer {
			return "", fmt.Errorf("answer of redis: length %q", line[1:])
		}
		if n < 0 {
			return "", nil // there is none
		}
		text := make([]byte, n+2)
		if _, err := io.ReadFull(r, text); err != nil {
			return "", fmt.Errorf("answer of redis: %w", err)
		}
		return string(text[:n]), nil
	}
	return "", fmt.Errorf("answer of redis: %q is no simple one", line)
}
