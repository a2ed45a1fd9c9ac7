package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// Map returns who talks to whom: an agent's report, to be put through
// [MergeMaps], or what a hub has put together.
func (c *Client) Map(ctx context.Context, q MapQuestion) (Map, error) {
	v := url.Values{}
	if len(q.Namespaces) > 0 {
		v.Set("namespace", strings.Join(q.Namespaces, ","))
	}
	if len(q.Nodes) > 0 {
		v.Set("node", strings.Join(q.Nodes, ","))
	}
	if q.Since > 0 {
		v.Set("since", q.Since.String())
	}
	b, err := c.object(ctx, "/map", v)
	if err != nil {
		return Map{}, err
	}
	var m Map
	if err := json.Unmarshal(b, &m); err != nil {
		return Map{}, fmt.Errorf("read the map: %w", err)
	}
	return m, nil
}
