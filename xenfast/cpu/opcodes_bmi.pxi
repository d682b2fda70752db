# The opcode table, VEX-encoded instructions on general registers: BMI1 and BMI2, in the order of SDM Vol. 2, tables A-4 and A-5.

cdef void rows_bmi() noexcept:
    op(MAP_V0F38 | 0xF2, ANDN_G_B_E, b"ANDN", b"Gy,By,Ey", F_NONE, F_ALL, A_NP | A_L0)
    op_reg(MAP_V0F38 | 0xF3, 1, BLSR_B_E, b"BLSR", b"By,Ey", F_NONE, F_ALL, A_NP | A_L0)
    op_reg(MAP_V0F38 | 0xF3, 2, BLSMSK_B_E, b"BLSMSK", b"By,Ey", F_NONE, F_ALL, A_NP | A_L0)
    op_reg(MAP_V0F38 | 0xF3, 3, BLSI_B_E, b"BLSI", b"By,Ey", F_NONE, F_ALL, A_NP | A_L0)
    op(MAP_V0F38 | 0xF5, BZHI_G_E_B, b"BZHI", b"Gy,Ey,By", F_NONE, F_ALL, A_NP | A_L0)
    op(MAP_V0F38 | 0xF5, PEXT_G_B_E, b"PEXT", b"Gy,By,Ey", F_NONE, F_NONE, A_F3 | A_L0)
    op(MAP_V0F38 | 0xF5, PDEP_G_B_E, b"PDEP", b"Gy,By,Ey", F_NONE, F_NONE, A_F2 | A_L0)
    op(MAP_V0F38 | 0xF6, MULX_G_B_E, b"MULX", b"Gy,By,Ey", F_NONE, F_NONE, A_F2 | A_L0)
    op(MAP_V0F38 | 0xF7, BEXTR_G_E_B, b"BEXTR", b"Gy,Ey,By", F_NONE, F_ALL, A_NP | A_L0)
    op(MAP_V0F38 | 0xF7, SHLX_G_E_B, b"SHLX", b"Gy,Ey,By", F_NONE, F_NONE, A_66 | A_L0)
    op(MAP_V0F38 | 0xF7, SARX_G_E_B, b"SARX", b"Gy,Ey,By", F_NONE, F_NONE, A_F3 | A_L0)
    op(MAP_V0F38 | 0xF7, SHRX_G_E_B, b"SHRX", b"Gy,Ey,By", F_NONE, F_NONE, A_F2 | A_L0)
    op(MAP_V0F3A | 0xF0, RORX_G_E_I, b"RORX", b"Gy,Ey,Ib", F_NONE, F_NONE, A_F2 | A_L0)
