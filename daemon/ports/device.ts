/**
 * Makes block devices of this node's NBD exports. Drivers: nbdfuse + loop now; ublk and kernel nbd later.
 * Operations on one volume run one after the other. Rejections are `BraidError`s whose messages say what to do.
 */
export interface DeviceAttacher {
  /**
   * Makes a block device of the export at `nbdUri` (also reachable through the unix socket `socketPath`). Idempotent: a device that works
   * is returned as it is, one whose driver has died is replaced. UNSUPPORTED when this host lacks something, UNAVAILABLE when it may work later:
   * a dead device that is mounted or open is not taken away from its users.
   */
  attach(
    volumeName: string,
    nbdUri: string,
    socketPath: string,
    sizeBytes: number,
  ): Promise<{ readonly device: string }>;
  /**
   * Removes the device. CONFLICT while it is mounted or open, unless forced: then users of it get I/O errors. Idempotent: no device is success.
   */
  detach(volumeName: string, options: { readonly force: boolean }): Promise<void>;
  /** At start, before any `attach`: removes what an agent that died has left. Their connections died with it. */
  cleanup(): Promise<void>;
  /** Called soon after a device has died by itself, with what happened: users of it get I/O errors until `attach` has replaced it. */
  onDied: (volumeName: string, reason: string) => void;
}
