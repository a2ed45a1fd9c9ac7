package main

import (
	"context"
	"fmt"

	"warren/test/cluster/bed"
)

// demo installs Warren and the shop, and says what to do with them.
func demo(ctx context.Context, c *bed.Cluster) error {
	if err := c.Demo(ctx); err != nil {
		return err
	}
	fmt.Print(`
Worth trying:
  bin/cluster kubectl warren map -n shop
  bin/cluster kubectl warren connection list -n shop -l app=front
  bin/cluster kubectl warren events -A 'evt.type = execve'
`)
	return nil
}
