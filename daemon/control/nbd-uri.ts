/** Where an NBD client on the owner's node finds a volume (the NBD URI specification). */
export function nbdUri(volumeName: string, socketPath: string): string {
  return `nbd+unix:///${encodeURIComponent(volumeName)}?socket=${encodeURIComponent(socketPath)}`;
}
