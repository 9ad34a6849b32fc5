//! placeholder
/// x
pub struct SimFs;
/// x
pub struct CrashMode;
/// x
pub struct FaultKind;
